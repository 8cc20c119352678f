-- Send results to the PACS: whatever the user "unet4d" stores over REST, which is the worker, goes to the server "pacs" of
-- DicomModalities, if there is one. Orthanc repeats a sending that fails only where its own settings say so.

function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin['RequestOrigin'] == 'RestApi' and origin['Username'] == 'unet4d' then
      for _, name in pairs(ParseJson(RestApiGet('/modalities'))) do
         if name == 'pacs' then
            SendToModality(instanceId, 'pacs')
         end
      end
   end
end
